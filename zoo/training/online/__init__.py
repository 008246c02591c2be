"""Learning from the policy's own answers: rollouts, their rewards, and the experience made of them."""
