# For those who have a daemon; `make image` needs none and builds both
# architectures. The result is the same: one static binary and nothing else.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETARCH VERSION=dev
RUN CGO_ENABLED=0 GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
	-ldflags "-s -w -buildid= -X main.version=$VERSION" -o /nodetap ./agent && mkdir -m 1777 /empty

FROM scratch
COPY --from=build /nodetap /nodetap
COPY --from=build /empty /tmp
ENTRYPOINT ["/nodetap"]
CMD ["run"]
