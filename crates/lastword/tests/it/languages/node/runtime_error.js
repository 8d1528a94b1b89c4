console.log("before");
throw new Error("uncaught");
