if true; then echo "never said"
