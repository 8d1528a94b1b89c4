echo "last line"
kill -KILL $$
