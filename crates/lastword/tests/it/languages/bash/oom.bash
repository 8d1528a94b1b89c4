block=$(printf '%01048576d' 0)
while :; do
    all+=$block
done
