# One image for Knative, OpenFaaS and plain Kubernetes; docs/image.md says what is in it.
#
# The tag says which Python; the digest behind it moves with security fixes. The workflow resolves it once and
# builds with --build-arg PYTHON=python:3.11-slim-bookworm@sha256:…, which the image's label then names.
ARG PYTHON=python:3.11-slim-bookworm

FROM ${PYTHON} AS app
WORKDIR /build
COPY requirements.txt LICENSE ./
COPY deploy/image/assemble.py deploy/image/assemble.py
COPY function function
RUN ["python", "-B", "deploy/image/assemble.py", "app", "/image"]

FROM ${PYTHON} AS system
COPY deploy/image/assemble.py /tmp/assemble.py
RUN python -B /tmp/assemble.py trim /usr/local && rm /tmp/assemble.py

# From nothing: what was removed above is in no layer. The first layer stays the same from release to release.
FROM scratch
ARG PYTHON
ARG VERSION=unreleased
ARG REVISION=unknown
# hadolint ignore=DL3067 # the whole file system is the point: only so are removed files gone
COPY --from=system / /
COPY --from=app /image/ /
# PORT is not set: the platform says it, and 8080 is the default.
ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin \
    LANG=C.UTF-8 \
    HOME=/nonexistent \
    PYTHONPATH=/app:/app/packages \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    AUDIT_JOURNAL_DIR=/var/lib/kube-audit-function
WORKDIR /app
# By number, so that Kubernetes' runAsNonRoot can see that it is not root.
USER 65532:65532
EXPOSE 8080 55555
LABEL org.opencontainers.image.title="kube-audit-function" \
      org.opencontainers.image.description="The audit log of a Kubernetes cluster whose API server you cannot configure" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${PYTHON}"
CMD ["python", "-m", "function", "serve"]
