# One static binary and nothing to log in to. Build it: docker build -t fanfare .
FROM golang:1.26.8-alpine AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
# timetzdata puts the time zones into the binary: the final image has no files of its own to read them from.
RUN CGO_ENABLED=0 go build -trimpath -tags timetzdata -ldflags="-s -w" -o /out/fanfare ./cmd/fanfare

# Its musl build is one static file, and called "wget" it is only that.
FROM busybox:1.37.0-musl AS busybox

FROM scratch
# To call providers over TLS.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
# For the health checks in docker-compose.yml.
COPY --from=busybox /bin/busybox /bin/wget
COPY --from=build /out/fanfare /bin/fanfare
USER 65532:65532
ENTRYPOINT ["/bin/fanfare"]
CMD ["--help"]
