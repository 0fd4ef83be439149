"""`/livez`, `/readyz` and `/metrics`."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fastapi import APIRouter, Depends
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from agents.gateway.access import may_everywhere
from agents.gateway.context import Context
from agents.gateway.estimates import EstimateRow, estimate_rows
from agents.gateway.logic import Board
from agents.gateway.shared import SharedBoard
from schemas.errors import DriftlineError


def router(context: Context) -> APIRouter:
    """Routes of health and metrics."""
    routes = APIRouter(tags=["health"])
    registry = CollectorRegistry()
    registry.register(BoardCollector(context.board, lambda: context.gate.failures))

    @routes.get("/livez")
    def livez() -> PlainTextResponse:
        """The process answers; nothing else is asked."""
        return PlainTextResponse("ok\n")

    @routes.get("/readyz")
    def readyz(verbose: str | None = None) -> Response:
        """Broker, database and history are there: 200, else 503. `?verbose` says which."""
        results: dict[str, str] = {}
        ready = True
        for name, check in context.checks.items():
            try:
                results[name] = check() or "ok"
            except DriftlineError as error:
                ready = False
                results[name] = f"failed: {error.what}"
        results["history"] = "ok" if context.board.caught_up else "failed: still being read"
        ready = ready and context.board.caught_up
        status = 200 if ready else 503
        if verbose is None:
            return PlainTextResponse("ok\n" if ready else "not ready\n", status_code=status)
        return JSONResponse({"ready": ready, "checks": results}, status_code=status)

    @routes.get("/metrics", dependencies=[Depends(may_everywhere(context.gate, "viewer"))])
    def metrics() -> Response:
        """Prometheus text: quality, incidents and accounting."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return routes


class BoardCollector(Collector):
    """The board as Prometheus metrics: no ids among the labels, ratios 0–1."""

    def __init__(self, board: SharedBoard, refused: Callable[[], int]) -> None:
        self._board = board
        self._refused = refused

    def collect(self) -> Iterator[Metric]:
        """Metrics as of now."""
        with self._board.use() as board:
            families = [*_quality(board), *_estimates(board), _incidents(board), *_accounting(board)]
        rejected = CounterMetricFamily("driftline_gateway_undecodable_records", "records the gateway passed over")
        rejected.add_metric([], self._board.rejected)
        refused = CounterMetricFamily("driftline_gateway_refused_keys", "attempts with a key that is not valid")
        refused.add_metric([], self._refused())
        return iter([*families, rejected, refused])


def _quality(board: Board) -> list[Metric]:
    labels = ["model", "version", "segment", "window", "metric"]
    quality = GaugeMetricFamily("driftline_quality", "metric of the newest closed window", labels=labels)
    coverage = GaugeMetricFamily("driftline_coverage_ratio", "labelled share of that window", labels=labels[:-1])
    for model in board.models.values():
        for key, series in model.quality.items():
            point = series.newest()
            if point is None or key.estimated:
                continue
            names = [model.model, str(key.version), key.segment, key.window]
            coverage.add_metric(names, point.coverage)
            for metric, value in point.values.items():
                if value is not None:
                    quality.add_metric([*names, metric], value)
    return [quality, coverage]


def _estimates(board: Board) -> list[Metric]:
    """The newest estimate of every series: names of their own, so that nobody takes one for a measured value."""
    labels = ["model", "version", "segment", "window", "metric"]
    name = "driftline_estimated_quality"
    value = GaugeMetricFamily(name, "metric of the newest window, estimated before its labels", labels=labels)
    low = GaugeMetricFamily(f"{name}_low", "lower end of its 95 % interval", labels=labels)
    high = GaugeMetricFamily(f"{name}_high", "upper end of its 95 % interval", labels=labels)
    trust = GaugeMetricFamily(
        "driftline_estimate_trust_ratio", "how well the estimates of a version held so far", labels=labels[:2]
    )
    for model in board.models.values():
        trusted: dict[int, EstimateRow] = {}
        for row in estimate_rows(model):
            if row.version not in trusted or row.window_end > trusted[row.version].window_end:
                trusted[row.version] = row
            names = [row.model, str(row.version), row.segment, row.window, row.metric]
            value.add_metric(names, row.value)
            low.add_metric(names, row.low)
            high.add_metric(names, row.high)
        for version, newest in sorted(trusted.items()):
            if newest.trust is not None:
                trust.add_metric([model.model, str(version)], newest.trust)
    return [value, low, high, trust]


def _incidents(board: Board) -> Metric:
    family = GaugeMetricFamily("driftline_open_incidents", "incidents open now", labels=["model", "severity"])
    for model in (board.fleet, *board.models.values()):
        for severity in ("info", "warning", "critical"):
            amount = sum(1 for alert in model.open_incidents() if alert.severity == severity)
            family.add_metric([model.model, severity], amount)
    return family


def _accounting(board: Board) -> list[Metric]:
    growing = CounterMetricFamily("driftline_records", "records of traffic by where they ended", labels=["place"])
    waiting = GaugeMetricFamily("driftline_waiting_records", "records whose other half is awaited", labels=["place"])
    for place, amount in sorted(board.accounting().items()):
        (waiting if place in {"pending", "labelled", "labels.waiting"} else growing).add_metric([place], amount)
    watermark = GaugeMetricFamily("driftline_watermark_seconds", "event time of the slowest partition, Unix time")
    if board.watermarks:
        watermark.add_metric([], min(board.watermarks.values()) / 1000)
    return [growing, waiting, watermark]
