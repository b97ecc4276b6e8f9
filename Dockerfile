# The operator's image: the binary, the shared libraries it needs, and the root certificates; nothing else, no shell.
#
#   docker build -t vendor-token-operator:latest .
#
# Where Docker Hub is out of reach: --build-arg BUILD_IMAGE=registry.example.com/rust:1.95-bookworm
ARG BUILD_IMAGE=docker.io/library/rust:1.95-bookworm

FROM ${BUILD_IMAGE} AS build
WORKDIR /source
COPY . .
RUN cargo build --release --locked -p vendor-token-operator --bin vendor-token-operator
# The binary is linked with glibc (no musl, whose resolver and allocator differ), so its libraries go with it, the
# dynamic loader included. Names are resolved inside libc.
RUN set -eu; \
    install -D target/release/vendor-token-operator /image/vendor-token-operator; \
    ldd target/release/vendor-token-operator \
        | awk '$2 == "=>" && $3 ~ "^/" { print $3 } $1 ~ "^/" { print $1 }' \
        | while read -r library; do install -D "$(readlink -f "$library")" "/image$library"; done; \
    install -D -m 644 /etc/ssl/certs/ca-certificates.crt /image/etc/ssl/certs/ca-certificates.crt; \
    echo 'hosts: files dns' > /image/etc/nsswitch.conf; \
    echo 'nonroot:x:65532:65532:nonroot:/:/sbin/nologin' > /image/etc/passwd

FROM scratch
COPY --from=build /image/ /
ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65532:65532
EXPOSE 8080 8081
ENTRYPOINT ["/vendor-token-operator"]
CMD ["run"]
