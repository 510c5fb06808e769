"""What a declaration of a model is: its tensors, parameters, errors and deadlines."""
