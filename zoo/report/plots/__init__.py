"""SVG plots and the tables behind them."""
