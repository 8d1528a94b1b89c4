echo "hello from stdout"
echo "hello from stderr" >&2
