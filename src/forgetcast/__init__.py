"""forgetcast forecasts how hard each training sample is to unlearn, and says why."""
