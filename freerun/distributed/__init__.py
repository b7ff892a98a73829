"""Several processes that train one model: how they start, find each other, and add up what they compute."""
