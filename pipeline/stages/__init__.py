"""The story, one module a stage: prepare, dump, head, train, evaluate, report; and predict."""
