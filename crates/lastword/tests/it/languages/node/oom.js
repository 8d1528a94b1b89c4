// Outside of V8's heap, which would end by itself.
const blocks = [];
for (;;) {
  blocks.push(Buffer.alloc(16 << 20, 1));
}
