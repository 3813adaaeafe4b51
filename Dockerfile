# cxrpipe with Ray, for clusters. Not built by our tests; linted with hadolint.
#     docker build --tag REGISTRY/cxrpipe:0.1.0 .
#     docker build --build-arg BASE=rayproject/ray:2.60.0-py311-gpu --tag REGISTRY/cxrpipe:0.1.0-gpu .
# Both have torch as PyPI has it, with CUDA; the first is for machines without a GPU all the same.
ARG BASE=rayproject/ray:2.60.0-py311-cpu
# Pin it by digest for production: hadolint cannot see the tag through the argument.
# hadolint ignore=DL3006
FROM ${BASE}

LABEL org.opencontainers.image.title="cxrpipe" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.description="Bulk scoring of chest X-ray archives with Ray. Research use, not a medical device."

# The base image's user: never root.
USER 1000:100
WORKDIR /opt/cxrpipe
COPY --chown=1000:100 pyproject.toml constraints.txt README.md LICENSE ./
COPY --chown=1000:100 cxrpipe cxrpipe
COPY --chown=1000:100 jobs jobs
COPY --chown=1000:100 recipes recipes
RUN pip install --no-cache-dir --constraint constraints.txt .

ENV RAY_USAGE_STATS_ENABLED=0 \
    CXRPIPE_LOG=json
ENTRYPOINT []
CMD ["cxrpipe", "--help"]
