"""A corpus: documents (`sources`) become flat token shards (`prepare`), read back as one array (`shards`)."""
