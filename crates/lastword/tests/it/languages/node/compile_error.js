console.log("never said"
