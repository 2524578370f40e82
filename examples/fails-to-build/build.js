console.log("compiling 1 module");
console.error("error: src/index.js:3: cannot find name 'shipof', did you mean 'shipoff'?");
process.exit(3);
