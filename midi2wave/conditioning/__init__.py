"""What the model receives from the notes: features, excitation, global labels."""
