# Two images: the receiver, the last stage and so what `docker build .` makes, and docker-compose.yml's collector.

FROM otel/opentelemetry-collector-contrib:0.159.0 AS otelcol

# The collector's own image has no shell, so no health check, and no folder that its user may write to.
FROM busybox:1.37.0-musl AS collector
COPY --from=otelcol /otelcol-contrib /otelcol-contrib
COPY --chmod=755 docker/send-to /usr/local/bin/send-to
COPY collector-config.yaml /etc/otelcol/config.yaml
# A new volume is filled from here, owner included.
RUN mkdir -p /var/lib/otelcol && echo '[otlp_grpc/jaeger]' > /var/lib/otelcol/exporters \
    && chown -R 10001:10001 /var/lib/otelcol
USER 10001:10001
HEALTHCHECK --interval=5s --timeout=3s --start-period=30s \
    CMD ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:13133/"]
ENTRYPOINT ["/otelcol-contrib"]
CMD ["--config", "/etc/otelcol/config.yaml"]

FROM python:3.13.14-slim AS build
WORKDIR /src
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# hatchling, by version and hash too.
ENV PIP_BUILD_CONSTRAINT=/src/requirements-dev.lock
COPY requirements.lock requirements-dev.lock ./
RUN python -m venv --without-pip /venv && pip --python /venv/bin/python install --require-hashes -r requirements.lock
COPY pyproject.toml README.md LICENSE ./
COPY otel_voice otel_voice
RUN pip wheel --no-deps --wheel-dir /wheels . \
    && pip --python /venv/bin/python install --no-deps --no-index /wheels/*.whl

FROM python:3.13.14-slim
COPY --from=build /venv /venv
RUN install -d -o 10001 -g 10001 /data
ENV PATH=/venv/bin:$PATH OTEL_VOICE_HOST=0.0.0.0 OTEL_VOICE_DATA_DIR=/data
USER 10001:10001
EXPOSE 8770
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8770/readyz', timeout=4)"]
ENTRYPOINT ["otel-voice"]
CMD ["serve"]
