"""The gradient for the guide in its original and in its reparameterised form, measured and drawn.

    python benchmarks/gradient_variance.py

Kingma and Welling (2014), section 2.2, call the score-function estimator impractical for its
variance. A VAE is trained on the embedded digits with each estimator from one seed. On the way of
the reparameterised run the variance of all three is measured at the same parameters, on the same
batch. The table goes to benchmarks/gradient_variance.md, the picture to
docs/pictures/gradient_forms.png.
"""

from dataclasses import dataclass
from math import sqrt
from pathlib import Path

import torch
from jsonargparse import auto_cli
from tables import table_row, write
from torch import Tensor

from guides import DiagonalNormal
from models import VAE, Spec
from ppl_vae.data import Data, Digits
from ppl_vae.measures.estimates import estimate
from ppl_vae.objectives import ELBO, Objective, ScoreFunction
from ppl_vae.pictures.figures import BLUE, INK, ORANGE, new_figure, save
from ppl_vae.training.schedules import learning_rate_at
from ppl_vae.training.step import SVIStep

TABLE = Path(__file__).with_suffix(".md")
PICTURE = TABLE.parents[1] / "docs" / "pictures" / "gradient_forms.png"
GREEN = "#009e73"


@dataclass(frozen=True)
class Form:
    """One estimator, and how it is drawn."""

    name: str
    objective: Objective
    colour: str


def forms(particles: int) -> tuple[Form, ...]:
    return (
        Form("original form", ScoreFunction(particles, "none"), ORANGE),
        Form(
            "original form, leave-one-out baseline",
            ScoreFunction(particles, "leave_one_out"),
            GREEN,
        ),
        Form("reparameterised form", ELBO(particles), BLUE),
    )


def main(epochs: int = 100, particles: int = 5, repeats: int = 200, seed: int = 0) -> None:
    """Trains with each form, measures and writes.

    Args:
        epochs: Passes over the training images.
        particles: Draws of z for each datum in each gradient.
        repeats: Gradients that a variance is taken over.
        seed: What everything follows from.
    """
    data = Digits().load("binary", seed=seed)
    stages = [epoch for epoch in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500) if epoch <= epochs]
    contestants = forms(particles)
    variances: dict[int, list[tuple[float, float]]] = {}
    curves = []
    for form in contestants:
        torch.manual_seed(seed)
        spec = Spec(data.image_shape, data.domain, latent_dim=10)
        step = SVIStep(VAE(spec), DiagonalNormal(spec), form.objective)
        bounds = []
        for epoch in range(epochs + 1):
            if epoch:
                _train(step, data, epoch, epochs)
            bounds.append(_bound(step, data))
            if epoch in stages and isinstance(form.objective, ELBO):
                variances[epoch] = [
                    _variance(step, c.objective, data, repeats) for c in contestants
                ]
        curves.append(bounds)
        print(f"{form.name}: validation ELBO {bounds[-1]:.2f} nats per datum")
    _write(contestants, variances, curves, particles, repeats, seed)
    _draw(contestants, variances, curves)


def _train(step: SVIStep, data: Data, epoch: int, epochs: int) -> None:
    order = torch.randperm(len(data.train)).split(100)
    for place, index in enumerate(order):
        done = (epoch - 1) * len(order) + place
        step((data.train[index],), learning_rate_at(done, 1e-3, len(order), epochs * len(order)))


def _bound(step: SVIStep, data: Data) -> float:
    with torch.random.fork_rng([]):
        torch.manual_seed(1)
        return estimate(step.model, step.guide, data.validation, 10).elbo.mean().item()


def _variance(step: SVIStep, objective: Objective, data: Data, repeats: int) -> tuple[float, float]:
    """The variance of a gradient for the guide, summed over its parameters, and its own error."""
    parameters = list(step.guide.parameters())
    with torch.random.fork_rng([]):
        torch.manual_seed(2)
        x = data.validation[:100]
        rows = [_gradient(objective.loss(step.model, step.guide, x), parameters)
                for _ in range(repeats)]  # fmt: skip
    gradients = torch.stack(rows)
    distances = (gradients - gradients.mean(0)).square().sum(-1) * repeats / (repeats - 1)
    return distances.mean().item(), distances.std().item() / sqrt(repeats)


def _gradient(loss: Tensor, parameters: list[torch.nn.Parameter]) -> Tensor:
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters)]).double()


def _write(
    contestants: tuple[Form, ...],
    variances: dict[int, list[tuple[float, float]]],
    curves: list[list[float]],
    particles: int,
    repeats: int,
    seed: int,
) -> None:
    lines = [
        "# The two forms of the gradient",
        "",
        "Made by `python benchmarks/gradient_variance.py`: the embedded digits, binarised",
        f"dynamically, tanh 500, D = 10, batches of 100, {particles} particles for each datum,",
        f"{len(curves[0]) - 1} epochs of Adam, seed {seed}; float32, torch {torch.__version__}.",
        "The variance is that of the gradient for all parameters of the guide, summed over them,",
        f"over {repeats} gradients of one batch of validation images; +- is one standard error.",
        "All three are measured at the parameters of the reparameterised run after so many",
        "epochs. Where q comes near the posterior all log w_k of a datum are nearly equal, so that",
        "what the leave-one-out baseline leaves of them goes to 0; the reparameterised one has",
        "the score of q in it, which does not (Roeder, Wu and Duvenaud, 2017).",
        "",
        "| epoch | " + " | ".join(f"{form.name}" for form in contestants)
        + " | ratio, no baseline | ratio, leave-one-out |",
        "|---|---|---|---|---|---|",
    ]  # fmt: skip
    for epoch, row in variances.items():
        cells = [f"{value:.3g} +- {error:.1g}" for value, error in row]
        for value, error in row[:-1]:
            last, last_error = row[-1]
            relative = sqrt((error / value) ** 2 + (last_error / last) ** 2)
            cells.append(f"{value / last:,.3g} +- {relative * value / last:.1g}")
        lines.append(table_row(epoch, *cells))
    lines += ["", "What that does to training, each form from the same initial parameters:", ""]
    lines += ["| form | validation ELBO, nats per datum |", "|---|---|"]
    last = zip(contestants, curves, strict=True)
    write(TABLE, [*lines, *(table_row(form.name, f"{curve[-1]:.2f}") for form, curve in last)])


def _draw(
    contestants: tuple[Form, ...],
    variances: dict[int, list[tuple[float, float]]],
    curves: list[list[float]],
) -> None:
    figure = new_figure(9, 3.6)
    figure.subplots_adjust(left=0.075, right=0.985, top=0.9, bottom=0.14, wspace=0.24)
    left, right = figure.subplots(1, 2)
    for place, (form, curve) in enumerate(zip(contestants, curves, strict=True)):
        values = [row[place][0] for row in variances.values()]
        left.plot(values, "o-", color=form.colour, markersize=4, linewidth=1.6)
        right.plot(range(len(curve)), curve, color=form.colour, label=form.name, linewidth=1.6)
    left.set_yscale("log")
    left.set_xticks(range(len(variances)), [str(epoch) for epoch in variances])
    left.set_title("variance of the guide's gradient, at the same parameters", loc="left",
                   fontsize=10)  # fmt: skip
    right.set_title("validation ELBO, nats per datum", loc="left", fontsize=10)
    right.set_ylim(min(curve[len(curve) // 20] for curve in curves) - 0.5, None)
    right.legend(frameon=False, fontsize=9, loc="lower right")
    for axes in (left, right):
        axes.set_xlabel("epoch", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.tick_params(labelsize=8.5, colors=INK)
    save(figure, PICTURE)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
