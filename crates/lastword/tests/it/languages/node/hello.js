console.log("hello from stdout");
console.error("hello from stderr");
