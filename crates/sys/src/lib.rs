//! The only unsafe code of sampan: thin, documented wrappers over Linux system calls.

