"""Worker processes that decode photos and find faces, and the queue of photos that wait for them."""
