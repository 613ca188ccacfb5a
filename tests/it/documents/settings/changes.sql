create function {place}.follow() returns trigger language plpgsql set search_path = '' as
  'begin update {place}.logs set id = new.id + 1 where id = new.id; return null; end';
create trigger follow after insert on {place}.logs for each row execute function {place}.follow();
insert into {place}.parents values ('{org}', 8, 'eight');
alter table {place}.parents add column extra int;
alter table {place}.parents rename name to "na\me";
create table {place}.logs_2027 partition of {place}.logs for values from ('2027-01-01') to ('2028-01-01');
insert into {place}.parents values ('{org}', 9, 'nine', 9);
insert into {place}.logs values (9, '{org}', '2027-02-03');
