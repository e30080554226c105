//! What a container will be, as plain data: requests, facts, contributions and the plan.
#![forbid(unsafe_code)]
