"""Fine-tuning examples: files are read (`tables`, `texts`, `tags`, `questions`, `chats`, `preferences`) into
the records of `records`, which a task encodes and `batches` puts together."""
