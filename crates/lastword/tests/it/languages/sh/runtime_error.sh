set -u
echo before
echo "$undeclared"
