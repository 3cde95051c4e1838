"""Pictures keep the pixels, and show what they are given."""

import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from ppl_vae.pictures import plots
from ppl_vae.pictures.figures import _FRAME


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def contains(picture, part):
    """Whether a picture contains a part, exactly."""
    height, width = part.shape[:2]
    views = np.lib.stride_tricks.sliding_window_view(picture, (height, width, 3))[:, :, 0]
    corners = np.argwhere((views[:, :, 0, 0] == part[0, 0]).all(-1))
    return any((views[tuple(corner)] == part).all() for corner in corners)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(8, 8), (28, 20), (64, 64)])
def test_image_grid_keeps_every_value_in_squares_of_whole_pixels(tmp_path, channels, height, width):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (6, channels, height, width)) / 255
    plots.image_grid(images, tmp_path / "grid.png", columns=3, title="title")
    picture = pixels(tmp_path / "grid.png")
    scale = round(112 / max(height, width))
    for image in images:
        small = np.broadcast_to(255 * image.transpose(1, 2, 0), (height, width, 3)).round()
        large = small.astype(np.uint8).repeat(scale, 0).repeat(scale, 1)
        assert contains(picture, large)
    assert picture.shape[1] < 3.6 * scale * width + 100


def test_image_grid_puts_rows_and_columns_where_they_are(tmp_path):
    values = np.arange(6).reshape(2, 3) / 10
    images = np.broadcast_to(values[:, :, None, None, None], (2, 3, 1, 8, 8))
    plots.image_grid(images, tmp_path / "grid.png")
    picture = pixels(tmp_path / "grid.png")[..., 0]
    height, width = picture.shape
    ys, xs = [height // 3, 2 * height // 3], [width // 5, width // 2, 4 * width // 5]
    middles = picture[np.ix_(ys, xs)]
    np.testing.assert_array_equal(middles, np.rint(255 * values))


@pytest.mark.parametrize("shade", [0.0, 0.63, 1.0])
@pytest.mark.parametrize("axis_labels", [None, ("x", "y")])
def test_images_of_any_grey_do_not_merge_with_what_is_around_them(tmp_path, shade, axis_labels):
    images = np.full((2, 2, 1, 28, 28), shade)
    plots.image_grid(images, tmp_path / "grid.png", axis_labels=axis_labels)
    picture = pixels(tmp_path / "grid.png").astype(int)
    inside = (picture == round(255 * shade)).all(-1)
    framed = (picture == _FRAME).all(-1)
    assert len(set(_FRAME)) == 3  # no shade of grey
    middle = picture.shape[1] // 3
    column, frame = inside[:, middle], framed[:, middle]
    if shade < 1:
        assert column.sum() == 2 * 112
    starts = np.flatnonzero(np.diff(frame.astype(int)) == 1) + 1
    ends = np.flatnonzero(np.diff(frame.astype(int)) == -1) + 1
    assert len(starts) == (3 if axis_labels is None else 2)
    between = [(begin, end) for begin, end in zip(ends[:-1], starts[1:], strict=True)]
    assert all(column[begin:end].all() for begin, end in between)
    assert sum(end - begin for begin, end in between) == 2 * 112


def test_image_grid_leaves_missing_images_white_and_is_reproducible(tmp_path):
    images = np.zeros((3, 1, 8, 8))
    labels = {"row_labels": ["$z_0$  effect 0.12", "$z_1$"], "column_labels": ["a", "b"]}
    for name in ("first.png", "second.png"):
        plots.image_grid(images, tmp_path / name, columns=2, **labels)
    assert (tmp_path / "first.png").read_bytes() == (tmp_path / "second.png").read_bytes()
    corner = pixels(tmp_path / "first.png")[-100:-20, -100:-20]
    assert (corner == 255).all()
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("shape", [(8, 8), (0, 1, 8, 8), (4, 2, 8, 8), (0, 3, 1, 8, 8)])
def test_image_grid_refuses_other_shapes(tmp_path, shape):
    with pytest.raises(ValueError, match="expected images"):
        plots.image_grid(np.zeros(shape), tmp_path / "grid.png")
    assert not any(tmp_path.iterdir())


def test_reconstructions_stand_below_their_originals(tmp_path):
    originals = np.full((20, 1, 8, 8), 0.2)
    plots.reconstructions(originals, originals + 0.4, tmp_path / "pairs.png")
    column = pixels(tmp_path / "pairs.png")[:, -60, 0]
    shades = column[np.flatnonzero(np.diff(column, prepend=0))]
    assert [shade for shade in shades if shade not in (255, _FRAME[0])][:2] == [51, 153]
    with pytest.raises(ValueError, match="shape"):
        plots.reconstructions(originals, originals[:3], tmp_path / "pairs.png")


def test_labels_of_tables_do_not_cover_each_other(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    rows = np.full((8, 1, 1, 30), 0.2)
    plots.reconstructions(rows, rows, tmp_path / "pairs.png")
    (figure,) = figures
    boxes = [
        text.get_window_extent()
        for text in figure.texts
        if text.get_text() in ("original", "reconstruction")
    ]
    assert len(boxes) >= 2
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_reconstructions_say_of_which_split(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    images = np.full((3, 1, 8, 8), 0.2)
    plots.reconstructions(images, images, tmp_path / "pairs.png")
    plots.reconstructions(images, images, tmp_path / "pairs.png", split="validation")
    for figure, split in zip(figures, ("test", "validation"), strict=True):
        said = {text.get_text() for text in figure.texts}
        assert f"Images of the {split} split above their reconstructions" in said


def test_animation_runs_there_and_back(tmp_path):
    frames = np.arange(5).reshape(5, 1, 1, 1, 1, 1) / 5 * np.ones((5, 1, 1, 1, 8, 8))
    plots.animation(frames, tmp_path / "moves.gif", ["title"] * 5, ["label"])
    with Image.open(tmp_path / "moves.gif") as gif:
        assert gif.info["loop"] == 0
        shades = []
        for frame in range(gif.n_frames):
            gif.seek(frame)
            shades.append(int(np.asarray(gif.convert("L"))[-60, 60]))
        assert min(gif.size) > 100
    assert shades == [round(255 * step / 5) for step in (0, 1, 2, 3, 4, 3, 2, 1)]


def test_learning_curves_survive_missing_values_and_single_epochs(tmp_path):
    names = ["loss", "validation_elbo", "validation_rate", "validation_distortion"]
    row = {"epoch": "1", "steps": 10, "learning_rate": 1e-3}
    row |= {f"{name}_nats_per_datum": "3.5" for name in names}
    for rows in ([], [row], [row, {**row, "epoch": 2, "validation_elbo_nats_per_datum": ""}]):
        plots.learning_curves(rows, tmp_path / "curves.png", "digits")
        assert pixels(tmp_path / "curves.png").shape == (630, 1350, 3)


@pytest.mark.parametrize(("epochs", "ticks"), [([1], [1]), ([1, 2], [1, 2])])
def test_learning_curves_of_few_epochs_have_whole_ticks(tmp_path, monkeypatch, epochs, ticks):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    rows = [{"epoch": epoch, "loss_nats_per_datum": -epoch} for epoch in epochs]
    plots.learning_curves(rows, tmp_path / "curves.png")
    for axes in figures[0].axes:
        low, high = axes.get_xlim()
        assert [tick for tick in axes.get_xticks() if low <= tick <= high] == ticks
        if epochs == [1]:
            assert (low, high) == (0.5, 1.5)


@pytest.mark.parametrize(
    ("objective", "label"), [("ELBO", "training"), ("Beta", "training: minus the loss, Beta")]
)
def test_the_training_curve_of_another_objective_says_so(tmp_path, monkeypatch, objective, label):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    names = ("loss_nats_per_datum", "validation_elbo_nats_per_datum")
    rows = [{"epoch": epoch, **dict.fromkeys(names, -epoch)} for epoch in (1, 2)]
    plots.learning_curves(rows, tmp_path / "curves.png", objective=objective)
    _, labels = figures[0].axes[0].get_legend_handles_labels()
    assert labels == [label, "validation"]


@pytest.mark.parametrize("point", [False, True])
def test_learning_curves_of_a_point_show_no_bound(tmp_path, monkeypatch, point):
    figures = []
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure))
    plots.learning_curves([{"epoch": 1}], tmp_path / "curves.png", point=point)
    titles = " ".join(axes.get_title(loc="left") for axes in figures[0].axes)
    assert ("ELBO" in titles, "KL" in titles) == (not point, not point)
    plots.learning_curves([{"epoch": 1}], tmp_path / "curves.png", point=point, given_class=True)
    titles = " ".join(axes.get_title(loc="left") for axes in figures[1].axes)
    assert titles.count("y") == 2 + (not point)
    assert "ELBO" not in titles or "ELBO of $\\log\\,p(x|y)$" in titles


def test_robust_limits_show_the_end_and_not_the_beginning():
    limits = []

    class Axes:
        def set_ylim(self, low, high):
            limits.append((low, high))

    values = np.concatenate([[-1e4, -5e3], np.linspace(-100, -90, 38)])
    plots._robust_limits(Axes(), [values])
    ((low, high),) = limits
    assert -102 < low < -98
    assert -90 < high < -88


def test_robust_limits_leave_out_a_single_epoch_that_is_far_off():
    limits = []

    class Axes:
        def set_ylim(self, low, high):
            limits.append((low, high))

    training, validation = np.linspace(-100, -90, 38), np.linspace(-101, -92, 38)
    training[20] = -1e19
    plots._robust_limits(Axes(), [training, validation])
    ((low, high),) = limits
    assert -102 < low < -98
    assert -90 < high < -88


@pytest.mark.parametrize(
    ("domain", "values", "expected"),
    [
        ("bytes", [0, 51, 255], [0, 0.2, 1]),
        ("binary", [0, 1, 0.3], [0, 1, 0.3]),
        ("unit", [0.5, 0.0, 1.0], [0.5, 0, 1]),
        ("real", [0.1, 0.5, 1.0], [0.1, 0.5, 1.0]),
        ("real", [-1, 0, 3], [0, 0.25, 1]),
        ("real", [-2, -2, -2], [0, 0, 0]),
    ],
)
def test_to_display(domain, values, expected):
    np.testing.assert_allclose(plots.to_display(values, domain, like=values), expected)


def test_to_display_takes_its_scale_from_other_images():
    np.testing.assert_allclose(plots.to_display([-3, 1, 2], "real", like=[-1, 3]), [0, 0.5, 0.75])
    np.testing.assert_allclose(plots.to_display([-3, 0.5, 2], "real", like=[0, 1]), [0, 0.5, 1])


def test_importing_loads_no_drawing_library():
    code = (
        "import sys, ppl_vae.pictures.plots, ppl_vae.pictures.graphical_model, ppl_vae.generate; "
        "print(*(name for name in ('matplotlib', 'PIL') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


@pytest.mark.parametrize("panels", [1, 5])
def test_a_score_chart_shows_the_names_whole(tmp_path, panels):
    scores = {f"score {number}": "a score" for number in range(panels)}
    values = dict.fromkeys(scores, 0.5) | {f"{name}_standard_error": 0.1 for name in scores}
    rows = [{"name": name, **values} for name in ("k-means-10", "runs/Digits-VAE-1/again")]
    plots.score_chart(rows, scores, tmp_path / "chart.png")
    assert (pixels(tmp_path / "chart.png")[:, :5] == 255).all()
