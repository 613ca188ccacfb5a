-- Restores what suspend_default_privileges.sql revoked.
do $$
begin
  execute current_setting('warden.default_privileges');
end
$$;
