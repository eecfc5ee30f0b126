from __future__ import annotations

from pathlib import Path

from services.torch_worker.config import WorkerConfig


def test_worker_config_survives_the_environment() -> None:
    config = WorkerConfig(
        "/m/dir with spaces",
        device="cuda:1",
        max_batch_size=3,
        max_delay_ms=0.5,
        threads=2,
        preferred_batch_sizes=(4, 8),
    )
    assert WorkerConfig.from_json(config.to_json()) == config
    assert config.model_path == Path("/m/dir with spaces")
