"""From a model file to engine bundles: the stages, what they are keyed by, and the journal that resumes them."""
