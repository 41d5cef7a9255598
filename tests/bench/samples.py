"""Results as they could have been measured."""

from __future__ import annotations

from bench.results import (
    Ceiling,
    Cell,
    Comparison,
    FakeRate,
    Large,
    Machine,
    ModelRate,
    Product,
    Results,
    Settings,
    SideFacts,
    Turn,
    WarmStart,
)

SETTINGS = Settings(seconds=1.0, rounds=2, measured="2026-01-01 00:00 UTC")


def turn(side, number, **others):
    """Return a turn of one second with 100 inputs, unless told otherwise."""
    figures = {
        "elapsed_s": 1.0,
        "requests": 10,
        "inputs": 100,
        "tokens": 1400,
        "p50_ms": 10.0,
        "p99_ms": 20.0,
    }
    return Turn(side=side, round=number, **{**figures, **others})


def cell(*turns, clients=8, inputs=32, kind="short"):
    """Return a cell of these turns."""
    return Cell(kind=kind, clients=clients, inputs=inputs, turns=list(turns), cosines={"gateway": 0.99995})


def comparison(group, peer):
    """Return a comparison in which the gateway is three times as fast as its peer."""
    turns = [
        turn(name, number, inputs=inputs, rss_peak_mb=memory, cpu_s=1.0)
        for number in range(2)
        for name, inputs, memory in (("gateway", 300, 200.0), (peer, 100, 500.0))
    ]
    broken = turn(peer, 0, inputs=0, requests=0, p50_ms=None, p99_ms=None, failed=3, errors=("it died",))
    return Comparison(
        group=group,
        settings=SETTINGS,
        sides=[SideFacts("gateway", "gateway", "this"), SideFacts(peer, "server", "that")],
        cells=[cell(*turns), cell(turn("gateway", 0), broken, clients=16, inputs=1)],
        left_out=["another: not installed"],
    )


def results():
    """Return results with something in every part."""
    return Results(
        machine=Machine(
            processor="a processor",
            cores=2,
            memory_gb=16.0,
            flags=("avx2",),
            system="a system",
            load_before=0.0,
            versions={"torch": "1"},
        ),
        minilm=comparison("minilm", "infinity"),
        gguf=comparison("gguf", "llama-cpp-python"),
        ceiling=Ceiling(
            SETTINGS,
            [Product("torch", "bf16", "square", [900.0, 1000.0]), Product("torch", "bf16", "wide", [1000.0])],
            [
                ModelRate(
                    model="a model",
                    runtime="torch",
                    dtype="bf16",
                    inputs=8,
                    tokens=128,
                    flops_per_token=1e8,
                    tokens_per_s=[4871.8],
                )
            ],
            [],
        ),
        fake=FakeRate(
            settings=SETTINGS,
            clients=32,
            pinned=True,
            requests_per_s=[3000.0],
            gateway_cpu_us=[300.0],
            worker_cpu_us=[100.0],
            client_cpu_us=[50.0],
            failed=0,
        ),
        start=WarmStart(SETTINGS, [1.0, 3.0, 2.0]),
        large=Large(
            settings=SETTINGS,
            runtime="torch",
            dtype="bf16",
            texts=1000,
            tokens=100_000,
            right=1000,
            failed=0,
            elapsed_s=80.0,
            cpu_s=160.0,
            rss_loading_mb=3000.0,
            rss_peak_mb=2000.0,
            rss_final_mb=1900.0,
            pss_peak_mb=None,
            pss_final_mb=None,
            cosine_min=0.9999,
            cosine_other=0.8,
        ),
    )
