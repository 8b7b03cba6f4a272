# weft on the CPU, built from this folder:
#   docker build -t weft .
#   docker run --rm -v "$PWD/runs:/weft/runs" weft fashion_mnist
FROM debian:12

WORKDIR /weft

# The packages come first and alone, so that this layer is kept while the source changes. Nothing for CI or layout.
COPY packages.txt ./
RUN apt-get update \
 && awk -F'|' '!/^#/ && NF == 4 { gsub(/ /, "", $1); gsub(/ /, "", $2); if ($2 !~ /^(ci|test)$/) print $1 }' packages.txt \
    | DEBIAN_FRONTEND=noninteractive xargs apt-get install -y --no-install-recommends \
 && rm -rf /var/lib/apt/lists/*

COPY . .
ENV WEFT_NO_INSTALL=1
RUN ./run build

ENTRYPOINT ["./run"]
CMD ["list"]
