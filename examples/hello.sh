#!/bin/sh
# Greets whoever is named: lastword run examples/hello.sh world
echo "Hello, ${1:-you}"
echo "This went to stderr" >&2
