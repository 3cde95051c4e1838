"""List the recipes of published results: `python -m ppl_vae.recipes`."""

from collections.abc import Mapping, Sequence

from ppl_vae.command_line.parser import Parser
from ppl_vae.command_line.verbs import run_verb
from ppl_vae.errors import InputError
from ppl_vae.machine.progress import table
from ppl_vae.pairs.pieces import suggest
from ppl_vae.runs.recipe import RECIPES, Recipe, recipes

__all__ = ["main"]


def main(arguments: list[str] | None = None) -> None:
    """The command line of `recipes`."""
    run_verb(_main, arguments)


def _main(arguments: list[str]) -> None:
    parser = Parser.of_verb("recipes", "List the recipes of published results.")
    parser.add_argument("name", nargs="?", help="A recipe, to see all that is known of it.")
    name = parser.parse_args(arguments).name
    every = recipes()
    if name is None:
        print(_listing(every))
        return
    if name not in (names := [each.name for each in every]):
        raise InputError(f"recipe: {suggest(name, names)}")
    print(_described(every[names.index(name)], every))


def _listing(every: Sequence[Recipe]) -> str:
    head = ("recipe", "measure", "published", "ours", "epochs", "seconds", "begins at")
    lines = [head]
    for each in every:
        published = "" if each.published is None else f"{each.published:.2f}"
        ours, epochs = _result(each.brief, each, every)
        cells = (each.name, each.unit, published, ours, epochs, each.seconds)
        lines.append((*cells, each.begins_at or ""))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ["  ".join(map(str.ljust, line, widths)).rstrip() for line in lines]
    if machines := sorted({each.machine for each in every if each.runs}):
        rows += [f"measured on {'; '.join(machines)}"]
    if any(each.runs and not each.finished for each in every):
        rows += [_SHORT]
    if any(each.begins_at for each in every):
        rows += ["N after M: M are those of the run under 'begins at'"]
    rows += [f"each is a file in {RECIPES}; ppl-vae recipes NAME says how to train it"]
    return "\n".join(rows)


_SHORT = (
    "N of M epochs: the number is of a run of N epochs, where the recipe plans M; what all of "
    "them reach is not known here"
)


def _result(ours: str, recipe: Recipe, every: Sequence[Recipe]) -> tuple[str, str]:
    """The number, or why there is none, and the epochs."""
    if not recipe.runs and recipe.name in {each.begins_at for each in every}:
        return "others begin at it", f"{recipe.epochs:,}"
    return ours or "not run", recipe.done


def _described(recipe: Recipe, every: Sequence[Recipe]) -> str:
    ours, epochs = _result(recipe.ours, recipe, every)
    published = "none" if recipe.published is None else f"{recipe.published:.2f}"
    rows = {
        "reproduces": recipe.reproduces,
        "measure": recipe.unit,
        "published": f"{published}; {recipe.source}",
        "differs": recipe.differs,
        "ours": ours,
        "epochs": epochs,
        "seconds": recipe.seconds,
        "machine": recipe.machine,
        **_commands(recipe, {each.name: each for each in every}),
    }
    short = {"note": _SHORT} if recipe.runs and not recipe.finished else {}
    return table(recipe.name, {name: row for name, row in rows.items() if row} | short)


def _commands(recipe: Recipe, every: Mapping[str, Recipe]) -> dict[str, str]:
    """The lines that train and measure a recipe, of the first seed, and where it begins."""
    run = _first_run(recipe)
    rows, data, start = {}, "DIR", ""
    if recipe.start:
        start = _first_run(every[recipe.start])
        rows["begins at"] = f"{start}, a run of the recipe {recipe.start}"
    if recipe.features:
        data = f"{_first_run(every[recipe.features])}/means"
        rows["begins at"] = f"{data}, posterior means of a run of the recipe {recipe.features}"
        rows["means"] = (
            f"python benchmarks/results.py --recipes {recipe.name} --seeds 1 --data_root DIR "
            "--runs RUNS makes them, and this run"
        )
    words = recipe.arguments(data, start)
    rows["train"] = " ".join(["python -m ppl_vae.fit", *words, "--seed", "0", "--run", run])
    rows["evaluate"] = (
        f"python -m ppl_vae.evaluate {run} --particles {recipe.drawn} --data_points all"
    )
    return rows


def _first_run(recipe: Recipe) -> str:
    """Where `benchmarks/results.py` keeps the run of the first seed."""
    return f"RUNS/{recipe.name}" + ("-0" if recipe.seeds > 1 else "")


if __name__ == "__main__":
    main()
