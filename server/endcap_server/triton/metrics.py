"""Reports the sums of `endcap_server.serving.metrics` to the server, which exports them with its own metrics.

In the Python backend, each update of a custom metric sends a message to the server process and takes the interpreter's
lock. Requests therefore only add up in memory, and a thread reports the sums once a second. Histograms are reported as
counters per bucket, because the server's histograms need a message per value.

If several models have the same series, Triton 24.10 frees it with the first of them, and ends at the next update by
another. (A model that is loaded again runs beside its predecessor for a moment.) Therefore each process has its own
series, by the label `process`.
"""

import os
import threading
import time
from typing import Any

import triton_python_backend_utils as pb_utils

from endcap_server.serving.metrics import EngineMetrics, Metric, StageMetrics, increments, nothing

PERIOD_S = 1.0


class MetricsReporter:
    """A thread that reports what a model counts.

    Args:
        source: The counts.
        model: Name of the Triton model, a label of every series; each generation has its own name.
    """

    def __init__(self, source: StageMetrics | EngineMetrics, model: str) -> None:
        self._source = source
        self._labels = {"model": model, "process": f"{os.getpid()}-{time.time_ns() // 1_000_000:x}"}
        self._families: dict[str, Any] = {}
        self._series: dict[tuple[str, tuple[str, ...], str], Any] = {}
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        try:
            for metric, labels in source.known:
                self._report(metric, labels, nothing(metric))
        except pb_utils.TritonModelException as error:
            # A server without metrics can serve, too.
            pb_utils.Logger.log_warn(f"{model}: no metrics of its own ({error})")
            self._forget()
            return
        self._thread.start()

    def stop(self) -> None:
        """Report the remaining counts and remove the series from the server."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        self._forget()

    def _run(self) -> None:
        stopped = False
        while not stopped:
            stopped = self._stopped.wait(PERIOD_S)
            try:
                for (metric, labels), sums in self._source.take().items():
                    self._report(metric, labels, sums)
            except Exception as error:  # an error here affects no request; try again in a second
                pb_utils.Logger.log_error(f"{self._labels['model']}: metrics: {error}")

    def _report(self, metric: Metric, labels: tuple[str, ...], sums: list[float]) -> None:
        for name, bucket, amount in increments(metric, sums):
            key = (name, labels, bucket.get("le", ""))
            series = self._series.get(key)
            if series is None:
                series = self._series[key] = self._family(name, metric).Metric(
                    labels={**self._labels, **dict(zip(metric.labels, labels, strict=True)), **bucket}
                )
            if metric.is_gauge:
                series.set(amount)
            elif amount:
                series.increment(amount)

    def _family(self, name: str, metric: Metric) -> Any:
        if name not in self._families:
            kind = pb_utils.MetricFamily.GAUGE if metric.is_gauge else pb_utils.MetricFamily.COUNTER
            self._families[name] = pb_utils.MetricFamily(name=name, description=metric.meaning, kind=kind)
        return self._families[name]

    def _forget(self) -> None:
        # Remove series before their families; the server refuses the other order.
        self._series.clear()
        self._families.clear()
