"""One thin entry point per DVC stage: read params, call the library, write what DVC tracks."""
