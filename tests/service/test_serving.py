"""A bundle at work that another one replaces."""

import asyncio
import time

import pytest
from prometheus_client import CollectorRegistry

from model.bundle import Bundle
from service.engine.serving import Shared, open_serving
from service.engine.worker import Worker
from service.observability.log import open_log
from service.observability.telemetry import Metrics
from service.scheduling.arrivals import Arrivals
from service.settings import Settings

pytestmark = pytest.mark.anyio


async def test_a_request_that_lasts_for_ever_keeps_no_bundle_from_being_replaced(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.engine.serving.LAST_REPLIES_S", 0.0)
    worker = Worker()
    shared = Shared(
        Settings(warm_up_s=0.001, max_batch=1, agreement_sample=0),
        worker,
        Metrics(CollectorRegistry(), version="test"),
        open_log(print),
        time.monotonic,
        Arrivals(),
    )

    async def rest(run_s: float) -> None:
        pass

    serving = await open_serving(bundle, shared, rest=rest)

    async def stay() -> None:
        with serving:
            await asyncio.Event().wait()

    request = asyncio.create_task(stay())
    await asyncio.sleep(0)  # it has entered

    await serving.drain(within_s=0)

    with pytest.raises(asyncio.CancelledError):
        await request
    serving.close()
    worker.close()
