all=$(printf '%01048576d' 0)
while :; do
    all=$all$all
done
