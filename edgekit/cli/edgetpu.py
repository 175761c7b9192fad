"""How `edgekit inspect` shows the Edge TPU: what is predicted of a model, and what a compiled one says of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from edgekit.cli.show import show_facts, show_table, size_text

if TYPE_CHECKING:
    from edgekit.edgetpu.compiled import Compiled
    from edgekit.edgetpu.predict import Boundary, Prediction

VERDICTS = {
    "cached": "fit on the chip",
    "borderline": "may not all fit on the chip",
    "streamed": "do not fit on the chip, the rest is sent for every inference",
}
PAYOFFS = {
    "likely": "likely faster than the CPU",
    "unlikely": "likely slower than the CPU",
    "unclear": "faster or slower than the CPU: measure it",
    "no part": "nothing runs on the Edge TPU",
}


def show_prediction(prediction: Prediction) -> None:
    """Every operator with its unit and why, then the summary; refused operators first, since nothing else counts then."""
    click.echo()
    rows = [(o.index, o.name, o.version, o.unit, o.reason, o.evidence) for o in prediction.operators]
    show_table(("#", "operator", "v", "unit", "why", "evidence"), rows)
    click.echo()
    counts = [f"{prediction.on_tpu} on the Edge TPU", f"{prediction.on_cpu} on the CPU"]
    counts += [f"{prediction.removed} removed"] if prediction.removed else []
    facts: list[tuple[str, object]] = [
        ("refused", f"{each.name} version {each.version} (operator {each.index}): {each.fix}")
        for each in prediction.refused
    ]
    facts += [("edge tpu", f"{', '.join(counts)} (predicted, compiler {prediction.compiler})")]
    facts += [("goes there", _tensor(each)) for each in prediction.inputs]
    facts += [("comes back", _tensor(each)) for each in prediction.outputs]
    parameters, payoff = prediction.parameters, prediction.payoff
    if prediction.on_tpu:
        streamed = f", {size_text(parameters.streamed_bytes)} streamed" if parameters.streamed_bytes else ""
        total = f"{size_text(parameters.total_bytes)} there{streamed}"
        facts += [("weights", f"{total}: they {VERDICTS[parameters.verdict]} (predicted)")]
        facts += [("moved", f"{size_text(payoff.bytes_per_inference)} for every inference (predicted)")]
    times = [
        f"{_ms(span)} {words}" for span, words in ((payoff.with_tpu_ms, "with it"), (payoff.cpu_only_ms, "without"))
    ]
    facts += [("payoff", f"{PAYOFFS[payoff.verdict]}; {', '.join(times)} (predicted: {payoff.assumed})")]
    show_facts(facts)


def show_compiled(compiled: Compiled) -> None:
    """What the compiler wrote into the file, for each Edge TPU operator, and what it left."""
    facts: list[tuple[str, object]] = []
    for package in compiled.packages:
        facts += [("edge tpu", f"operator {package.operator}, {len(package.executables)} programs")]
        facts += [("runtime", f"{package.min_runtime} or newer")]
        facts += [("cached", f"{size_text(package.cached_bytes)} of weights stay on the chip")]
        facts += [("streamed", f"{size_text(package.streamed_bytes)} of weights are sent for every inference")]
        if package.token is not None:
            facts += [("token", f"{package.token}; models with the same one stay on the chip together")]
        cycles = sum(each.cycles or 0 for each in package.executables if each.kind != "parameter caching")
        if cycles:
            facts += [
                ("cycles", f"{cycles:,} (the compiler's estimate), {cycles / 5e5:.2g} ms at 500 MHz, no transfers")
            ]
    names = ", ".join(f"{index} {name}" for index, name in compiled.on_cpu)
    click.echo()
    show_facts([*facts, ("on the CPU", names or "nothing")])


def _tensor(tensor: Boundary) -> str:
    return f"{tensor.name}: {tensor.dtype}{list(tensor.shape)}, {size_text(tensor.bytes)}"


def _ms(span: tuple[float, float]) -> str:
    return f"{span[0]:.3g} to {span[1]:.3g} ms"
