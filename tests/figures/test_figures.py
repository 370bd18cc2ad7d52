"""What every figure owes its reader: names on the axes, a legend, the prediction beside the measurement, room."""

import re
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from matplotlib._pylab_helpers import Gcf
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.text import Text

from figures import FIGURES, deterministic_exact, sublinear_rate
from figures.gallery import GALLERY, ROOT
from figures.style import BLACK, FULL_WIDTH, darker
from paper_checks import CLAIMS, Setting
from paper_checks.evidence import read_arrays
from paper_checks.sublinear_rate import FAMILIES
from tests.figures.evidence import MAKERS, make

SIZES = (1, 6)  # one horizon a series, and about as many as the claims have
STORED = 0  # in place of a size: what `make verify` found
# Measured quantities, and where each is what a figure predicts on its own, the law that predicts it
MEASURED = {
    "algorithm_replay": ("quadratic_phi", "heads_phi", "representation_phi", "two_tensors_phi"),
    "hypergradient_error": ("tight_error", "identity_measured", "bound_error"),
    "cg_rate": ("ratio", "random_ratio"),
    "deterministic_exact": ("floor", "grad_norm_sq_0", "curved_grad_norm_sq_1"),
    "representation": ("warm", "cold", "trap_square"),
    "cold_start_floor": ("K_floor", "N_floor"),
    "step_size_limit": ("critical", "growth", "cold_H", "floor_trace", "warm_trace_0"),
    "itd_floor": ("floor", "bound_error"),
    "growing_lower_steps": ("grad_norm_sq_0", "error_0", "error_1", "fixed"),
    "worst_case_sdp": ("sdp", "tight_min", "run_min"),
    "sublinear_rate": ("min",),
    "sublinear_tail": ("square", "local"),
    "batch_size_decay": ("moment", "all_tasks_trace", "direction"),
    "sample_complexity": ("iid_samples", "pool_samples", "iid_hit", "pool_hit", "fixed_average"),
    "stale_warm_start": ("average", "moment", "N_moment", "all_tasks_1"),
    "stationary_moment": ("moment", "curve", "limit", "sample_square", "path_mean", "path_square"),
    "complexity": ("huber_hit", "counted", "evaluated", "graph_evaluated"),
    "few_shot_cost": ("memory_reduced_seconds", "itd_anew_seconds", "maml_passes"),
    "few_shot_assumption": ("v", "residual", "d_order", "lower_ratio", "grid_validation", "grid_test"),
    "few_shot_accuracy": ("memory_reduced_validation", "itd_bio_test"),
    "method_comparison": (
        "quadratic_square",
        "quadratic_gap",
        "representation_gap",
        "logistic_square",
        "cleaning_auc",
        "cleaning_accuracy",
    ),
    "method_rates": ("worst_iterates", "noisy_mean", "sum_mean"),
    "counterexamples": ("diverging", "quartic", "singular", "heavy_median", "noisy", "mean", "coupled_moves"),
}
LAWS = {
    "algorithm_replay": ("quadratic_law",),
    "hypergradient_error": ("tight_law",),
    "cg_rate": ("chi",),
    "deterministic_exact": ("floor_law", "beta"),
    "representation": ("cold_law", "trap_law"),
    "cold_start_floor": ("K_law", "N_law"),
    "step_size_limit": ("critical_law", "growth_law", "cold_law", "floor_law"),
    "itd_floor": ("law",),
    "growing_lower_steps": ("law_0", "law_1", "delta_0", "first", "fixed_law"),
    "worst_case_sdp": ("sdp_law",),
    "sublinear_rate": ("law",),
    "sublinear_tail": ("law", "e"),
    "batch_size_decay": ("law", "direction_law"),
    "sample_complexity": ("iid_hit_law", "pool_hit_law", "fixed_average_law"),
    "stale_warm_start": ("law",),
    "stationary_moment": ("law", "curve_law", "limit_law", "path_square_law", "path_mean_law"),
    "complexity": ("huber_law", "T_eps"),
    "memory": ("law_0", "law_1"),
    "few_shot_cost": ("itd_anew_law", "maml_law", "maml_passes_law"),
    "few_shot_assumption": ("v_law", "bound", "lower_contraction"),
    "few_shot_accuracy": ("bar_least",),
    "method_comparison": ("floor", "floor_gap", "auc_bound", "cleaning_accuracy_all", "logistic_bound"),
    "method_rates": ("noisy_rate", "noisy_start", "sum_start"),
    "counterexamples": ("diverging_law", "quartic_law", "singular_law", "heavy_law", "noisy_law", "coupled_moves_law"),
}
every_claim = pytest.mark.parametrize("claim", FIGURES)
every_size = pytest.mark.parametrize("n", SIZES)


@cache
def drawn(claim: str, n: int) -> Figure:
    return FIGURES[claim](make(claim, n) if n else read_arrays(ROOT / GALLERY, claim))


def legends(figure: Figure) -> list[Legend]:
    return [*figure.legends, *(axes.get_legend() for axes in figure.axes if axes.get_legend())]


def is_dashed(line) -> bool:
    return line.is_dashed() and line.get_linestyle() != ":"


def dashed_data(figure: Figure) -> list[np.ndarray]:
    return [line.get_xydata() for axes in figure.axes for line in axes.lines if is_dashed(line)]


def measured_data(figure: Figure) -> list[np.ndarray]:
    return [line.get_xydata() for axes in figure.axes for line in axes.lines if not line.is_dashed()]


def same(left: list[np.ndarray], right: list[np.ndarray]) -> bool:
    return len(left) == len(right) and all(map(np.array_equal, left, right))


def visible_texts(figure: Figure):
    """Labels, letters, legends and the ticks within the limits, each with its box in pixels."""
    texts = [text for legend in legends(figure) for text in legend.get_texts()]
    for axes in figure.axes:
        texts += [*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            texts += [tick.label1 for tick in ticks if low <= tick.get_loc() <= high and tick.label1.get_visible()]
    # Of an annotation, not its arrow
    return [(text, Text.get_window_extent(text)) for text in texts if text.get_text()]


def misnamed(axis) -> list[tuple[float, str]]:
    """Ticks within the limits whose label says another number than where they are; names are none."""
    low, high = sorted(axis.get_view_interval())
    wrong = []
    for tick in axis.get_major_ticks():
        said = re.sub(r"\\mathdefault|[${}]", "", tick.label1.get_text()).replace("\\cdot", "*").replace("−", "-")
        number = re.fullmatch(r"(?:(-?[\d.]+)(?:\*|$))?(?:10\^(-?\d+))?", said)
        if said and number and low <= tick.get_loc() <= high:
            factor, exponent = number.groups()
            value = float(factor or 1) * 10.0 ** int(exponent or 0)
            if not np.isclose(value, tick.get_loc(), rtol=1e-6, atol=1e-9 * (high - low)):
                wrong.append((tick.get_loc(), said))
    return wrong


def test_a_tick_that_says_another_number_is_noticed():
    axes = Figure().subplots()
    axes.set(xlim=(0.2, 0.4), xticks=[0.25, 0.35], xticklabels=["0.2", "0.35"], ylim=(1, 1e6), yscale="log")
    axes.figure.draw_without_rendering()
    assert misnamed(axes.xaxis) == [(0.25, "0.2")]
    assert misnamed(axes.yaxis) == []
    axes.set_yticks([1e5, 2e5], ["$10^{4}$", "$2\\cdot10^{5}$"])
    axes.figure.draw_without_rendering()
    assert misnamed(axes.yaxis) == [(1e5, "10^4")]


def test_every_claim_has_a_figure_and_every_figure_a_claim():
    assert list(FIGURES) == list(CLAIMS)
    assert set(MAKERS) == set(FIGURES)
    assert sublinear_rate.NAMES == FAMILIES


def test_what_a_claim_really_stores_is_drawn_and_is_what_these_tests_use():
    evidence = CLAIMS["cg_rate"].run(Setting())
    assert evidence.keys() == make("cg_rate", 2).keys()
    FIGURES["cg_rate"](evidence).draw_without_rendering()


@every_size
@every_claim
def test_axes_name_their_quantities(claim, n):
    for axes in drawn(claim, n).axes:
        assert axes.get_xlabel().strip()
        assert axes.get_ylabel().strip()


@every_claim
def test_a_legend_names_more_than_one_series(claim):
    figure = drawn(claim, 6)
    shared = bool(figure.legends)
    for axes in figure.axes:
        if len(axes.lines) > 1:
            assert shared or axes.get_legend()
    for legend in legends(figure):
        labels = [text.get_text() for text in legend.get_texts()]
        assert labels
        assert all(labels)
        assert len(set(labels)) == len(labels)


@every_claim
def test_a_legend_says_what_the_dashed_lines_are(claim):
    figure = drawn(claim, 6)
    shared = [handle for legend in figure.legends for handle in legend.legend_handles]
    for axes in figure.axes:
        own = axes.get_legend().legend_handles if axes.get_legend() else []
        assert any(map(is_dashed, (handle for handle in [*shared, *own] if isinstance(handle, Line2D))))


@every_size
@every_claim
def test_every_measured_series_has_its_dashed_prediction(claim, n):
    for axes in drawn(claim, n).axes:
        predictions = {to_rgb(line.get_color()) for line in axes.lines if is_dashed(line)}
        for line in axes.lines:
            if not line.is_dashed():
                assert predictions & {darker(line.get_color()), to_rgb(BLACK)}


@pytest.mark.parametrize(("claim", "name"), [(claim, name) for claim, names in MEASURED.items() for name in names])
def test_a_measurement_moves_its_markers_and_no_prediction(claim, name):
    evidence = make(claim, 6)
    before, after = drawn(claim, 6), FIGURES[claim](evidence | {name: 1.3 * evidence[name]})
    assert not same(measured_data(before), measured_data(after))
    assert same(dashed_data(before), dashed_data(after))


@pytest.mark.parametrize(("claim", "name"), [(claim, name) for claim, names in LAWS.items() for name in names])
def test_a_law_moves_its_dashed_line_and_no_other_curve_of_that_panel(claim, name):
    evidence = make(claim, 6)
    before, after = drawn(claim, 6), FIGURES[claim](evidence | {name: 1.3 * evidence[name]})
    assert not same(dashed_data(before), dashed_data(after))
    # A step size: the guaranteed decrease in panel c is measured against it; a replay: its difference is panel b
    if name not in ("beta", "quadratic_law"):
        assert same(measured_data(before), measured_data(after))


def test_unequal_peaks_leave_the_flat_line_of_the_memory_figure():
    evidence = make("memory", 5)
    evidence["over_K"][1:] += 1024.0
    peaks, line = (data(FIGURES["memory"](evidence))[0][:, 1] for data in (measured_data, dashed_data))
    assert np.all(line == line[0])
    assert np.all(peaks[1:] == line[0] + 1)  # KiB


def test_a_growth_of_the_potential_is_drawn_below_the_guarantee():
    evidence = make("deterministic_exact", 5)
    evidence["V_0"] = evidence["V_0"][0] * 1.01 ** np.arange(len(evidence["V_0"]))
    decrease = deterministic_exact.draw(evidence).axes[2]
    assert decrease.lines[0].get_ydata().max() == deterministic_exact.SHOWN < 1
    assert decrease.get_ylim()[0] < deterministic_exact.SHOWN


def test_a_run_that_ended_at_once_is_drawn():
    evidence = make("deterministic_exact", 1)
    short = {name: values[:1] for name, values in evidence.items() if name.startswith(("V_", "grad_norm_sq_"))}
    figure = deterministic_exact.draw(evidence | short)
    figure.draw_without_rendering()
    assert {len(line.get_xdata()) for line in figure.axes[1].lines if not is_dashed(line)} == {1}


def test_a_hit_that_never_came_leaves_a_gap_and_the_law():
    evidence = make("complexity", 5)
    evidence["huber_hit"][2] = evidence["hit"][2] = evidence["calls_at_hit"][2] = np.nan
    figure = FIGURES["complexity"](evidence)
    figure.draw_without_rendering()
    assert np.isnan(measured_data(figure)[0][2, 1])
    assert np.isfinite(dashed_data(figure)[0]).all()


def test_both_samplings_lie_on_one_line_over_the_variance_factor():
    batch, collapse, *_ = drawn("batch_size_decay", 6).axes
    assert sum(map(is_dashed, batch.lines)) == 2
    (law,) = (line.get_xydata() for line in collapse.lines if is_dashed(line))
    assert np.ptp(law[:, 1] / law[:, 0]) < 1e-12
    assert np.all(np.diff(law[:, 0]) >= 0)


# Both in one test: the layout, which is most of the time, is made once
@pytest.mark.parametrize("n", [1, STORED])
@every_claim
def test_no_text_is_small_or_covered_or_cut_off_and_no_legend_covers_data(claim, n):
    figure = drawn(claim, n)
    figure.draw_without_rendering()
    assert figure.get_figwidth() <= FULL_WIDTH
    boxes = visible_texts(figure)
    for text, box in boxes:
        assert text.get_fontsize() >= 7
        assert figure.bbox.x0 <= box.x0
        assert box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0
        assert box.y1 <= figure.bbox.y1
    overlapping = [
        (one.get_text(), other.get_text())
        for (one, left), (other, right) in combinations(boxes, 2)
        if left.padded(-1).overlaps(right.padded(-1))
    ]
    assert overlapping == []
    for axes in figure.axes:
        assert misnamed(axes.xaxis) + misnamed(axes.yaxis) == []
        covering = [one for one in legends(figure) if axes.bbox.overlaps(one.get_window_extent())]
        assert covering == []


@every_claim
def test_drawing_leaves_the_evidence_and_pyplot_alone(claim):
    evidence = make(claim, 3)
    for array in evidence.values():
        array.flags.writeable = False
    FIGURES[claim](evidence)
    assert Gcf.get_num_fig_managers() == 0


# What is measured of these is no array of MEASURED: it moves a prediction as well
ALSO = {
    "certificate": ("error", "cold_adaptive_squares_100"),
    "lyapunov_decrease": ("V_0", "grad_norm_sq_0", "V_5"),
    "memory": ("over_K", "unrolled_0"),
    "method_bias": ("K_d", "methods_d", "random_d"),
}


@pytest.mark.parametrize("failure", ["diverged", "nothing"])
@every_claim
def test_what_a_run_that_failed_leaves_is_drawn(claim, failure):
    evidence = make(claim, 6)
    for name in MEASURED.get(claim, ()) + ALSO.get(claim, ()):
        values = np.array(evidence[name], float)
        if failure == "nothing":
            values[...] = 0
        else:
            values.flat[values.size // 3 :] = np.inf
            values.flat[-1] = np.nan
        evidence[name] = values
    with np.errstate(all="ignore"):
        figure = FIGURES[claim](evidence)
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            assert np.isfinite(axis.get_majorticklocs()).all()  # a logarithmic axis without limits raises here


# array of names -> the arrays with a row for each of them; what else has a row for each method by another name
OWN = {
    "method_bias": {"methods": ("methods_counts", "methods_d", "methods_law"), "random": ("random_d", "random_law")},
    "method_rates": {
        "worst": ("worst_iterates",),
        "noisy": ("noisy_mean", "noisy_rate", "noisy_attained"),
        "sum": ("sum_mean", "sum_late"),
    },
}


def with_own(claim: str) -> dict[str, np.ndarray]:
    """The evidence with a further method, "Mine", that does as the first of each table does."""
    evidence = make(claim, 6)
    if claim == "method_comparison":
        count = len(evidence["methods"])
        rows = [name for name, array in evidence.items() if array.ndim and len(array) == count]
        tables = {"methods": tuple(name for name in rows if name not in ("methods", "titles", "exact", "grid"))}
        evidence["exact"] = np.append(evidence["exact"], True)
        evidence["titles"] = np.append(evidence["titles"], "My method")
        evidence["methods"] = np.append(evidence["methods"], "Mine")
    else:
        tables = OWN[claim]
        for table in tables:
            evidence[f"{table}_names"] = np.append(evidence[f"{table}_names"], "Mine")
    for name in (name for names in tables.values() for name in names):
        evidence[name] = np.concatenate([evidence[name], evidence[name][:1]])
    return evidence


@pytest.mark.parametrize("claim", ["method_bias", "method_rates", "method_comparison"])
def test_a_method_of_ones_own_is_drawn_black_under_its_name(claim):
    figure = FIGURES[claim](with_own(claim))
    rows = [text for axes in figure.axes for text in axes.get_yticklabels()]
    said = {text.get_text() for text in [*rows, *(text for legend in legends(figure) for text in legend.get_texts())]}
    assert said & {"Mine", "My method"}
    drawn_black = [axes for axes in figure.axes if any(line.get_marker() == "*" for line in own_lines(axes))]
    assert len(drawn_black) >= {"method_bias": 2, "method_rates": 4, "method_comparison": 8}[claim]


def own_lines(axes):
    return [line for line in axes.lines if to_rgb(line.get_color()) == to_rgb(BLACK) and not line.is_dashed()]
