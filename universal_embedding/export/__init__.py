"""SavedModels, Kaggle submissions and their loading."""
