// From a plan to an answer.
