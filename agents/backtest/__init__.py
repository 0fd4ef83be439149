"""The backtest: any table of history through the code that monitors, alerts and retrains in production."""
