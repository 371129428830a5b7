"""Examples by step: data sets, their sources, the order of examples, and the loader of batches."""
