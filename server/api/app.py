"""The HTTP server: one service behind all dialects, with the background threads of the API process."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import to_thread
from fastapi import APIRouter, FastAPI

from server.api import health, page
from server.api.auth import Auth
from server.api.background import Background
from server.api.cleanup import CLEANUP_S, Cleanup
from server.api.dialects import DIALECTS
from server.api.direct import DirectRoutes
from server.api.errors import HANDLERS
from server.api.fetching import FETCHERS, Fetcher
from server.api.metrics import COUNT_S, Metrics
from server.api.middleware import Middleware
from server.api.news import REPORTERS, Reporter
from server.api.openapi import routes as openapi
from server.api.webhooks import SENDERS, Sender
from server.blobs import open_blobs
from server.config import Config
from server.db.database import open_database
from server.db.deadlines import Deadlines
from server.db.deliveries import Deliveries
from server.db.jobs import Jobs
from server.db.keys import Keys
from server.db.notify import Listener, Topic
from server.db.uploads import Uploads
from server.outbound.ssrf import read_allowed
from server.service.service import Service
from server.weights.catalog import Catalog

_THREADS = 8
"""Shared by all endpoints. Some wait for the disk, others compete for the interpreter: with the usual 40 threads,
twenty callers who poll get a sixth fewer answers."""
_BUCKET_THREADS = 40
"""Where pictures are in a bucket: most wait for it."""

_ROUTES = APIRouter()
"""Of all applications: FastAPI reads the signatures of the endpoints at the first request, which takes longer than an
application takes to start. Here it does so once in a process."""
for _router in (health.router, openapi.router, page.router, *(each.router for each in DIALECTS)):
    _ROUTES.include_router(_router)


def create_app(config: Config) -> FastAPI:
    """The API on a database that has been migrated. Raises BadConfig."""
    read_allowed(config.allow_hosts)
    engine = open_database(config.database)
    listener = Listener(engine, may_lead=True)
    blobs = open_blobs(config)
    jobs = Jobs(engine, lease_s=config.lease_s, max_queue=config.max_queue)
    uploads = Uploads(engine, blobs, keep_s=config.keep_s)
    deliveries = Deliveries(engine)
    service = Service(config, jobs, uploads, blobs, Catalog.of(config))
    auth, metrics = Auth(config, Keys(engine)), Metrics(jobs, deliveries, listener.is_leader)
    fetcher = Fetcher(service, jobs, blobs)
    sender = Sender(jobs, deliveries, blobs, config)
    reporter = Reporter(jobs, deliveries, config)
    cleanup = Cleanup(config, service, jobs, uploads, blobs, metrics, listener.is_leader)
    deadlines = Deadlines(engine, jobs)

    background = Background()
    fetch, send, news = (listener.subscribe(each) for each in (Topic.FETCH, Topic.DELIVERY, Topic.NEWS))
    background.add_pool("fetch", FETCHERS, fetcher.claim, fetcher.fetch, fetch)
    background.add_pool("send", SENDERS, sender.claim, sender.attempt, send, deliveries.next_due_s)
    background.add_pool("news", REPORTERS, reporter.claim, reporter.report, news, deliveries.next_due_s)
    background.add_waiting("deadlines", deadlines.once, listener.subscribe(Topic.DEADLINE), deadlines.next_s)
    background.add_regular("cleanup", cleanup.once, CLEANUP_S)
    background.add_regular("count", metrics.count, COUNT_S)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        threads = _THREADS if config.blob_url is None else _BUCKET_THREADS
        to_thread.current_default_thread_limiter().total_tokens = threads
        with listener.running(), background.running():
            async with _ROUTES.lifespan_context(app):
                yield
        fetcher.release()
        service.stop_readers()
        engine.dispose()

    app = FastAPI(
        routes=_ROUTES.routes,
        lifespan=lifespan,
        openapi_url=None,
        redirect_slashes=False,
        exception_handlers=HANDLERS,
    )
    app.state.service, app.state.auth, app.state.metrics = service, auth, metrics
    app.state.close = service.close  # see protocol.Server
    app.add_middleware(Middleware, config=config, auth=auth, metrics=metrics, direct=DirectRoutes(app.routes))
    return app
