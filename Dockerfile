# Two images from one file: `--target api` (no torch, small) and `--target worker` (torch, timm, ONNX Runtime).
# The same commands run as plain processes without Docker; tests/deploy checks this.
ARG PYTHON_VERSION=3.11

FROM python:${PYTHON_VERSION}-slim AS base
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1 PATH=/opt/potstill/bin:$PATH
RUN python -m venv /opt/potstill
WORKDIR /src
COPY pyproject.toml README.md ./
COPY locks locks

FROM base AS api-build
RUN pip install --require-hashes --only-binary :all: --requirement locks/api.txt
COPY api api
COPY core core
COPY worker worker
COPY server server
COPY migrations migrations
RUN pip install --no-deps --no-build-isolation '.[api]'

FROM base AS worker-build
RUN pip install --require-hashes --only-binary :all: --requirement locks/worker.txt
COPY api api
COPY core core
COPY potstill_models potstill_models
COPY worker worker
COPY server server
COPY migrations migrations
RUN pip install --no-deps --no-build-isolation '.[worker]'

FROM python:${PYTHON_VERSION}-slim AS runtime
ENV PYTHONUNBUFFERED=1 PATH=/opt/potstill/bin:$PATH POTSTILL_HOME=/var/lib/potstill
RUN useradd --system --create-home --uid 10001 potstill && install -d -o potstill -g potstill /var/lib/potstill
USER potstill
WORKDIR /var/lib/potstill
VOLUME /var/lib/potstill
STOPSIGNAL SIGTERM

FROM runtime AS api
COPY --from=api-build /opt/potstill /opt/potstill
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
CMD ["potstill-server", "api", "--host", "0.0.0.0", "--port", "8000"]

FROM runtime AS worker
COPY --from=worker-build /opt/potstill /opt/potstill
CMD ["potstill-server", "worker"]
