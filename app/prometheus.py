"""What Prometheus can read at /metrics."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

REGISTRY = CollectorRegistry()
REQUESTS = Counter("xinglin_requests_total", "Requests by route and status", ["route", "status"], registry=REGISTRY)
SECONDS = Histogram("xinglin_request_seconds", "Time to the end of a request, s", ["route"], registry=REGISTRY)
FIRST_TOKEN = Histogram(
    "xinglin_first_token_seconds", "From the model's server beginning to reply to its first token, s", registry=REGISTRY
)
ACTIVE = Gauge("xinglin_active_requests", "Requests that are being answered", registry=REGISTRY)
BROKEN_STREAMS = Counter("xinglin_broken_streams_total", "Streams that broke off on the side of the model", registry=REGISTRY)
RED_FLAGS = Counter("xinglin_red_flags_total", "Emergencies found in questions", ["flag"], registry=REGISTRY)
PLAYED_DOWN = Counter("xinglin_played_down_total", "Answers that play an emergency down", registry=REGISTRY)
ANSWERS = Counter("xinglin_answers_total", "Answers to the page's questions by how they ended", ["state"], registry=REGISTRY)
EXPIRY_HELD = Gauge(
    "xinglin_expiry_held", "1 where deletion by age waits for somebody to say that the clock is right", registry=REGISTRY
)
