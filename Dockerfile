# cxrpipe with Ray, for clusters. Not built by our tests; linted with hadolint, and held by tests/deploy/test_docker.py.
#     docker build --target cpu --tag REGISTRY/cxrpipe:0.1.0-cpu .     head, submitter and machines without a GPU
#     docker build --target gpu --tag REGISTRY/cxrpipe:0.1.0-gpu .     machines with a GPU
# The torch of PyPI brings CUDA. Machines without a GPU take torch's own build for CPUs, of the same version.

FROM scratch AS source
COPY pyproject.toml constraints.txt README.md LICENSE /source/
COPY cxrpipe /source/cxrpipe
COPY jobs /source/jobs
COPY recipes /source/recipes

# Pin both bases by digest for production. The user is the base image's: never root.
FROM rayproject/ray:2.60.0-py311-cpu AS cpu
LABEL org.opencontainers.image.title="cxrpipe" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.description="Bulk scoring of chest X-ray archives with Ray. Research use, not a medical device."
USER 1000:100
WORKDIR /opt/cxrpipe
COPY --from=source --chown=1000:100 /source ./
RUN pip install --no-cache-dir --no-deps --constraint constraints.txt \
        --index-url https://download.pytorch.org/whl/cpu torch torchvision \
    && pip install --no-cache-dir --constraint constraints.txt .
ENV RAY_USAGE_STATS_ENABLED=0 \
    CXRPIPE_LOG=json
ENTRYPOINT []
CMD ["cxrpipe", "--help"]

FROM rayproject/ray:2.60.0-py311-gpu AS gpu
LABEL org.opencontainers.image.title="cxrpipe" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.description="Bulk scoring of chest X-ray archives with Ray. Research use, not a medical device."
USER 1000:100
WORKDIR /opt/cxrpipe
COPY --from=source --chown=1000:100 /source ./
RUN pip install --no-cache-dir --constraint constraints.txt .
ENV RAY_USAGE_STATS_ENABLED=0 \
    CXRPIPE_LOG=json
ENTRYPOINT []
CMD ["cxrpipe", "--help"]
