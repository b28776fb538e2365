"""From a job spec to a plan: the resolver, the estimate, device checks, model profiles."""
