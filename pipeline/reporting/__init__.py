"""What the report says: numbers and sentences, from metrics and evidence alone."""
