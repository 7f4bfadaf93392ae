//! Guest files: a file becomes a load plan, the plan becomes guest memory.
#![forbid(unsafe_code)]
